"""What an S3 server's refusal means, whatever the client library wraps it in.

A refusal is told as what it is, at once: asking again changes nothing. What time may mend is StoreUnavailable.
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
# Of status 4xx, and yet no refusal: what the network, another writer or the server's load has done.
PASSING = frozenset({
    "408", "409", "412", "416", "425", "429", "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InvalidPart",
    "InvalidPartOrder", "InvalidRange", "NoSuchUpload", "OperationAborted", "PreconditionFailed", "RequestTimeout",
    "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
    "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", *ABSENT,
})  # fmt: skip
# Refusals whatever their status.
FINAL = frozenset({"301", "PermanentRedirect", "501", "NotImplemented", "507", "RequestTimeTooSkewed", "InvalidStorageClass"})
DEMANDS_CHECKSUM = re.compile(r"md5|checksum", re.IGNORECASE)
# What a demand for a checksum may be called where no text says what is missing.
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
    """Return the code of a server's answer, a number where it has no body; nothing if it is none."""
    found = answer_in(error)
    return str(found.response.get("Error", {}).get("Code", "")) if found else ""


def answer_in(error: BaseException) -> ClientError | None:
    """Return the server's answer that an error is, or wraps."""
    return next((one for one in _causes(error) if isinstance(one, ClientError)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was made of: its cause, and what libraries keep in its arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            given = getattr(one, "kwargs", None)
            kept = given.values() if isinstance(given, dict) else ()
            waiting += [part for part in (*one.args, *kept, one.__cause__, one.__context__) if isinstance(part, BaseException)]


def is_refusal(error: ClientError) -> bool:
    """Say whether asking again would be answered alike."""
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in NO_RIGHT | BAD_KEYS | FINAL or FULL.fullmatch(code) or code == "NoSuchBucket":
        return True
    if code in ABSENT:
        # Of a list it says that there is no such bucket.
        return error.operation_name.startswith("List")
    return 400 <= status < 500 and code not in PASSING


def may_be_class(error: BaseException) -> bool:
    """Say whether an object may have been refused for its storage class: servers say so in several ways."""
    found = answer_in(error)
    if found is None or not is_refusal(found):
        return False
    code = code_of(found)
    return not (code in NO_RIGHT | BAD_KEYS | {"NoSuchBucket", "RequestTimeTooSkewed"} or FULL.fullmatch(code))


def demands_checksum(error: BaseException) -> bool:
    """Say whether an object may have been refused because no checksum came with it, as buckets with object lock do."""
    found = answer_in(error)
    if found is None or not is_refusal(found):
        return False
    said = str(found.response.get("Error", {}).get("Message") or "")
    return code_of(found) in MAY_DEMAND_CHECKSUM or DEMANDS_CHECKSUM.search(f"{code_of(found)} {said}") is not None


def untrusted(error: BaseException) -> str:
    """Return what is wrong with a server's certificate, or with what it is checked by, and the remedy; nothing if all is well."""
    if not any(isinstance(one, SSLError) for one in _causes(error)):
        return ""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    named = f"AWS_CA_BUNDLE {bundle}" if bundle else "the file of authorities (ca_bundle of the AWS profile, or of the block)"
    for one in _causes(error):
        if isinstance(one, ssl.SSLCertVerificationError) or type(one).__name__ == "CertificateError":
            said = getattr(one, "verify_message", "") or " ".join(str(one).split())
            known = f"is in {bundle}" if bundle else "is named"
            return (
                f"the server's certificate is not trusted: {said}; see that the file of its authority {known} (AWS_CA_BUNDLE), and "
                "that AWS_ENDPOINT_URL has the name in the certificate"
            )
        if isinstance(one, ssl.SSLError) and one.library in {"X509", "PEM"}:
            return f"{named} holds no certificates; name the PEM file of the server's authority in AWS_CA_BUNDLE"
        if isinstance(one, ssl.SSLError) and one.reason in NO_TLS:
            return "what answers speaks no TLS; write http:// in AWS_ENDPOINT_URL, or correct its port"
        if isinstance(one, ssl.SSLError) and one.reason in FAILED_HANDSHAKES:
            return f"no TLS that both sides know ({one.reason}); have the server, or what stands before it, set right"
        if isinstance(one, FileNotFoundError | PermissionError | IsADirectoryError):
            return f"{named}: {one.strerror}; name the PEM file of the server's authority in AWS_CA_BUNDLE"
    return ""


def explain(place: str, error: Exception) -> OperationError:
    """Return the one error that says which object, what happened, and what to do."""
    if isinstance(error, NoCredentialsError | ParamValidationError):
        return BadInput(f"{place}: {' '.join(str(error).split())}; correct BACKUP_STORE and the AWS_… variables")
    if answer := answer_in(error):
        said = " ".join(str(answer.response.get("Error", {}).get("Message") or "").split())
        what = ": ".join(part for part in (place, code_of(answer), said) if part)
        return (BadInput if is_refusal(answer) else StoreUnavailable)(f"{what}; {_remedy(answer)}")
    if fault := untrusted(error):
        return BadInput(f"{place}: {fault}")
    return StoreUnavailable(f"{place}: {' '.join(str(error).split())}; check the network and AWS_ENDPOINT_URL")


def _remedy(answer: ClientError) -> str:
    code, operation = code_of(answer), answer.operation_name
    if code in NO_RIGHT:
        right = RIGHTS.get(operation, operation)
        return f"the key may not do that (it takes s3:{right}): check bucket, credentials and rights"
    if FULL.fullmatch(code):
        return "the store has no room, or the account's quota is used up: make room, or have the quota raised"
    if code == "RequestTimeTooSkewed":
        return "set the clock of this machine right (NTP)"
    if not is_refusal(answer):
        return "check the store, and try again"
    return "check bucket, credentials and rights"
