"""The block that points the flows at one bounded context."""

from prefect.blocks.core import Block
from pydantic import Field

from tasks.core.context import Context


class BoundedContext(Block):
    """A bounded context: what its folder says, and the blocks of its database and its store."""

    _block_type_name = "Bounded Context"
    _block_type_slug = "bounded-context"
    _description = "What is backed up and restored together, and where: written by `python -m deployments.register`."

    definition: Context = Field(description="what context.yaml says")
    files: dict[str, str] = Field(description="the files of the context folder; every backup set has a copy of them")
    database: str = Field(description="name of the SqlAlchemyConnector block of the server and its credentials")
    store: str = Field(description="block of the store: s3-bucket/<name> or local-file-system/<name>")
