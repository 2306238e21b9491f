"""Writing objects as a server accepts them: its storage classes, the checksums it requires."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.exceptions import Boto3Error
from botocore.exceptions import ClientError

from tasks.store.refusals import DEFAULT_CLASS, demands_checksum, may_be_class

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
# A function that sends a request with a client, and with these further arguments.
Send = Callable[["S3Client", dict[str, Any]], T]


class Writes:
    """What this run has found out about how a server accepts objects.

    `client` sends the checksums that the server requires; `stricter` create clients that send more
    checksums; `lacking` are requested storage classes that the server does not have.
    """

    def __init__(self, client: "S3Client", stricter: "Sequence[Callable[[], S3Client]]") -> None:
        self.client, self.lacking = client, set[str]()
        self._stricter, self._switching = [*stricter], Lock()

    def in_class(self, storage_class: str, send: Send[T]) -> T:
        """Store an object in a class; if accepted only without, the class counts as lacking."""
        extra: dict[str, Any] = {"StorageClass": storage_class}
        if storage_class == DEFAULT_CLASS or storage_class in self.lacking:
            return self._with_checksums(send, {})
        try:
            return self._with_checksums(send, extra)
        except (ClientError, Boto3Error) as error:
            if not may_be_class(error):
                raise
        stored = self._with_checksums(send, {})
        self.lacking.add(storage_class)
        return stored

    def _with_checksums(self, send: Send[T], extra: dict[str, Any]) -> T:
        """Send a request; if the server requires more checksums, send it again with them."""
        while True:
            client = self.client
            try:
                return send(client, extra)
            except (ClientError, Boto3Error) as error:
                if not (demands_checksum(error) and self._is_stricter(client)):
                    raise

    def _is_stricter(self, than: "S3Client") -> bool:
        """Return whether a client that sends more checksums is in use by now or can be made."""
        with self._switching:
            if self.client is than and self._stricter:
                self.client = self._stricter.pop(0)()
            return self.client is not than
