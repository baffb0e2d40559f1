"""The wire: gRPC, protobuf and image files, and the checks of everything that comes in."""
