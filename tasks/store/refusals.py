"""The meaning of errors of an S3 server, in whatever exception of the client library they are.

A refusal is BadInput, without a retry. An error that may be temporary is StoreUnavailable.
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

import os
import re
import ssl
from collections.abc import Iterator

from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError, SSLError

from tasks.core.errors import BadInput, OperationError, StoreUnavailable
from tasks.store.interface import ABSENT

DEFAULT_CLASS = "STANDARD"
NO_RIGHT = frozenset({"403", "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "UnauthorizedAccess"})
BAD_KEYS = frozenset({
    "401", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired", "Unauthorized",
})  # fmt: skip
FULL = re.compile(r"507|.*(?:Quota|StorageFull|InsufficientStorage).*")
# Status 4xx, but temporary: caused by the network, another writer or the server's load.
PASSING = frozenset({
    "408", "409", "412", "416", "425", "429", "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InvalidPart",
    "InvalidPartOrder", "InvalidRange", "NoSuchUpload", "OperationAborted", "PreconditionFailed", "RequestTimeout",
    "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
    "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", *ABSENT,
})  # fmt: skip
# Refusals, whatever their HTTP status.
FINAL = frozenset({"301", "PermanentRedirect", "501", "NotImplemented", "507", "RequestTimeTooSkewed", "InvalidStorageClass"})
DEMANDS_CHECKSUM = re.compile(r"md5|checksum", re.IGNORECASE)
# Codes of a missing checksum if the message does not name it.
MAY_DEMAND_CHECKSUM = frozenset({"400", "InvalidRequest", "MissingContentMD5"})
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST"})
FAILED_HANDSHAKES = frozenset({
    "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV13_ALERT_CERTIFICATE_REQUIRED",
})  # fmt: skip
RIGHTS = {
    "ListObjectsV2": "ListBucket", "HeadObject": "GetObject", "CreateMultipartUpload": "PutObject", "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject", "CopyObject": "GetObject or PutObject", "UploadPartCopy": "GetObject or PutObject",
    "ListMultipartUploads": "ListBucketMultipartUploads",
}  # fmt: skip


def code_of(error: BaseException) -> str:
    """Return an answer's error code, or HTTP status if it has no body, or "" without answer."""
    answer = answer_in(error)
    return str(answer.response.get("Error", {}).get("Code", "")) if answer else ""


def answer_in(error: BaseException) -> ClientError | None:
    """Return the server's answer that is the error itself, or one of its causes."""
    return next((cause for cause in _causes(error) if isinstance(cause, ClientError)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, also those that libraries keep in its arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            arguments = getattr(cause, "kwargs", None)
            kept = arguments.values() if isinstance(arguments, dict) else ()
            parts = *cause.args, *kept, cause.__cause__, cause.__context__
            waiting += [part for part in parts if isinstance(part, BaseException)]


def is_refusal(error: ClientError) -> bool:
    """Return whether a retry would get the same answer."""
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in NO_RIGHT | BAD_KEYS | FINAL or FULL.fullmatch(code) or code == "NoSuchBucket":
        return True
    if code in ABSENT:
        # In the answer to a listing, 404 means that there is no such bucket.
        return error.operation_name.startswith("List")
    return 400 <= status < 500 and code not in PASSING


def may_be_class(error: BaseException) -> bool:
    """Return whether a server may have refused a storage class; codes differ by server."""
    answer = answer_in(error)
    if answer is None or not is_refusal(answer):
        return False
    code = code_of(answer)
    return not (code in NO_RIGHT | BAD_KEYS | {"NoSuchBucket", "RequestTimeTooSkewed"} or FULL.fullmatch(code))


def demands_checksum(error: BaseException) -> bool:
    """Return whether the store may require a checksum, as buckets with object lock do."""
    answer = answer_in(error)
    if answer is None or not is_refusal(answer):
        return False
    code, message = code_of(answer), str(answer.response.get("Error", {}).get("Message") or "")
    return code in MAY_DEMAND_CHECKSUM or DEMANDS_CHECKSUM.search(f"{code} {message}") is not None


def untrusted(error: BaseException) -> str:
    """Return what is wrong with certificate or CA file, with the remedy, or "" if nothing."""
    if not any(isinstance(cause, SSLError) for cause in _causes(error)):
        return ""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    named = f"AWS_CA_BUNDLE {bundle}" if bundle else "the CA file (ca_bundle of the AWS profile, or of the block)"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError) or type(cause).__name__ == "CertificateError":
            reason = getattr(cause, "verify_message", "") or " ".join(str(cause).split())
            remedy = f"add the server's CA to {bundle} (AWS_CA_BUNDLE)" if bundle else "name the server's CA file in AWS_CA_BUNDLE"
            return (
                f"the server's certificate is not trusted: {reason}; {remedy}, and make sure that "
                "AWS_ENDPOINT_URL has the host name in the certificate"
            )
        if isinstance(cause, ssl.SSLError) and cause.library in {"X509", "PEM"}:
            return f"{named} holds no certificates; name the PEM file of the server's CA in AWS_CA_BUNDLE"
        if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
            return "the server does not use TLS; write http:// in AWS_ENDPOINT_URL, or correct its port"
        if isinstance(cause, ssl.SSLError) and cause.reason in FAILED_HANDSHAKES:
            return (
                f"the TLS handshake failed ({cause.reason}): no common version, or a client "
                "certificate is required; have the configuration of the server, or of the proxy "
                "before it, corrected"
            )
        if isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError):
            return f"{named}: {cause.strerror}; name the PEM file of the server's CA in AWS_CA_BUNDLE"
    return ""


def explain(place: str, error: Exception) -> OperationError:
    """Return an error that names the object, what happened, and the remedy."""
    if isinstance(error, NoCredentialsError | ParamValidationError):
        return BadInput(f"{place}: {' '.join(str(error).split())}; correct BACKUP_STORE and the AWS_… variables")
    if answer := answer_in(error):
        message = " ".join(str(answer.response.get("Error", {}).get("Message") or "").split())
        what = ": ".join(part for part in (place, code_of(answer), message) if part)
        return (BadInput if is_refusal(answer) else StoreUnavailable)(f"{what}; {_remedy(answer)}")
    if fault := untrusted(error):
        return BadInput(f"{place}: {fault}")
    return StoreUnavailable(f"{place}: {' '.join(str(error).split())}; check the network and AWS_ENDPOINT_URL")


def _remedy(answer: ClientError) -> str:
    code, operation = code_of(answer), answer.operation_name
    if code in NO_RIGHT:
        right = RIGHTS.get(operation, operation)
        return f"the access key lacks s3:{right}: check bucket, credentials and permissions"
    if FULL.fullmatch(code):
        return "the store is full, or the account's quota is used up: free space, or have the quota raised"
    if code == "RequestTimeTooSkewed":
        return "correct the clock of this machine (NTP)"
    if not is_refusal(answer):
        return "check the store, and try again"
    return "check bucket, credentials and permissions"
