"""Which requests of a trial on an endpoint are settled: answered, or failed by the model and not by the serving."""

from typing import NamedTuple

from kvlab.store.database import Database
from kvlab.taxonomy import REFUSES_ALL, RETRYABLE, ErrorType
from kvlab.timing.request import Failure


class Last(NamedTuple):
    """The last attempt at an arm: its number, and whether nothing is left to ask."""

    attempt: int
    settled: bool


def is_settled(failure: Failure | None) -> bool:
    """Whether a request is not to be asked again: what broke in the serving, a later run may get answered."""
    if failure is None:
        return True
    return failure.error_type not in RETRYABLE and failure.http_status not in REFUSES_ALL


def asked(database: Database, trial_id: str) -> dict[str, Last]:
    """Return the last attempt at each arm of a trial, over all sessions."""
    rows = database.sql.execute(
        "SELECT arm, attempt, error_type, http_status, message FROM requests LEFT JOIN failures USING (request_id) "
        "WHERE trial_id = ? ORDER BY attempt",
        (trial_id,),
    )
    return {row["arm"]: Last(row["attempt"], is_settled(_failure(*tuple(row)[2:]))) for row in rows}


def _failure(error_type: str | None, http_status: int | None, message: str) -> Failure | None:
    return None if error_type is None else Failure(ErrorType(error_type), message, http_status)
