"""Objects as a server takes them: in a class that it has, with the checksums that it demands."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.exceptions import Boto3Error
from botocore.exceptions import ClientError

from tasks.store.refusals import DEFAULT_CLASS, demands_checksum, may_be_class

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
# Sends something with a client, and these further arguments.
Send = Callable[["S3Client", dict[str, Any]], T]


class Writes:
    """How a server was found to take objects, in this run: `client` is the one whose checksums it takes.

    `stricter` make clients that send more of them; `lacking` has the storage classes that it was asked for and does not have.
    """

    def __init__(self, client: "S3Client", stricter: "Sequence[Callable[[], S3Client]]") -> None:
        self.client, self.lacking = client, set[str]()
        self._stricter, self._switching = [*stricter], Lock()

    def in_class(self, storage_class: str, send: Send[T]) -> T:
        """Store something in a class; a server that refuses it and takes it without lacks the class, and is not asked again."""
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
        """Send something, and again with more checksums where the server refuses it without."""
        while True:
            client = self.client
            try:
                return send(client, extra)
            except (ClientError, Boto3Error) as error:
                if not (demands_checksum(error) and self._is_stricter(client)):
                    raise

    def _is_stricter(self, than: "S3Client") -> bool:
        """Say whether there is another client by now, or is one to be made, that sends more checksums."""
        with self._switching:
            if self.client is than and self._stricter:
                self.client = self._stricter.pop(0)()
            return self.client is not than
