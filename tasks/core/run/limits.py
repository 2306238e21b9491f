"""Limits of numeric parameters: Prefect shows them in forms, and rejects other values."""

from typing import Annotated

from pydantic import Field

Seconds = Annotated[int, Field(ge=1, le=86_400)]
Minutes = Annotated[int, Field(ge=1, le=1440)]
Days = Annotated[int, Field(ge=1, le=366)]
Periods = Annotated[int, Field(ge=0, le=120)]
Share = Annotated[float, Field(gt=0, le=1)]
