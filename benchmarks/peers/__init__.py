"""fusewire beside ONNX Runtime, OpenVINO and MNN on the same models, in alternating rounds."""
