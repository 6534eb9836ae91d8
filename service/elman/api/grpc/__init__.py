"""The Open Inference Protocol over gRPC. The extra `elman[grpc]` installs what this room imports."""
