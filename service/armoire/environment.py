"""What the libraries of a command are told by its environment, unless it says otherwise: import it before they are."""

import os

# NumPy's BLAS would start a thread for each core when it is loaded, which takes as long as all else of NumPy: nothing
# here multiplies matrices of a size that gains from it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# ONNX Runtime's wheels report to their maker, and leave a device id in the caller's home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# gRPC writes on stderr what a peer says as it goes, in the peer's own words: lines of the log by a stranger's hand.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
