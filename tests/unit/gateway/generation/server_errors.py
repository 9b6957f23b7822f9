"""Errors of the server as its callers get them."""

from tritonclient.utils import InferenceServerException
from wan_t2v_client.errors import ClientError, client_error

from tests.fakes.pb_utils import FakePbUtils
from wan_t2v.serving.python_backend.responses import error_response


def as_client_error(error: Exception) -> ClientError:
    """Send an exception of the server through its own error response; a stream carries its message alone."""
    return client_error(InferenceServerException(msg=error_response(FakePbUtils(), error).error().message()))
