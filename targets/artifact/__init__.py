"""Compiled modules as files: `CompiledModule.save` (write.py) and `load` (read.py).

A file is a zip archive that `unzip -l` shows; nothing in it is compressed:

    manifest.json        format and version, the members with sizes and SHA-256, the tensors, the program (manifest.py)
    manifest.sha256      the hash of the manifest
    ir/*.txt             the module before and after fusion in Relay's text format, constants by number
    c/*.c, loops/*.txt   the C files, the source of each kernel, and its loop IR
    objects/*.so         the compiled kernels, and the code of the thread team
    weights/*.bin        the raw bytes of tensors, little-endian, at multiples of 64 bytes: they are mapped, not read

Members that would be equal are stored once. Hashes find damage, not malice: whoever can write the file can make it
hold any code and any matching hash. Load files only from those whose programs you would run.
"""
