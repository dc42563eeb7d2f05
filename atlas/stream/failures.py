"""What an error while reading a case means, tensorstore's above all, and what a person can do about it."""

from __future__ import annotations

import re

from atlas.errors import CorpusError

ERRORS = (ValueError, IndexError, KeyError, RuntimeError, OSError)
"""What tensorstore raises; the code stands at the beginning of the text."""

LONGEST = 300

_CODE = re.compile(r"^([A-Z_]+):")
_NOISE = re.compile(r" \[(source locations|http_response_body|curl_code)='.*?'\](?=$| \[)", re.DOTALL)
_WHOLE = "was ignored by server"
_UNREACHABLE = {"ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}
_DENIED = {"PERMISSION_DENIED", "UNAUTHENTICATED"}


def is_damage(error: Exception) -> bool:
    """Whether bytes came, and were not what they should be."""
    return not (isinstance(error, TimeoutError) or _code(error) in _UNREACHABLE | _DENIED or _refused(error))


def failure(location: str, case_id: str, error: Exception) -> CorpusError:
    """What to tell a person whose case could not be read."""
    text = _NOISE.sub("", str(error))[:LONGEST] or "no answer"
    if _WHOLE in text:
        return CorpusError(
            f"{location}: {case_id} cannot be read: this server sends whole files only, and streaming needs parts of "
            "them (Range requests); serve the corpus by another one, or copy it"
        )
    if is_damage(error):
        return CorpusError(
            f"{location}: {case_id} is damaged ({text}); find what else is with `atlas verify`, and build it again"
        )
    if _code(error) in _DENIED:
        return CorpusError(
            f"{location}: permission to read {case_id} is denied ({text}); check the credentials (for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and the right to list the bucket, without "
            "which S3 says the same of what does not exist"
        )
    return CorpusError(
        f"{location}: {case_id} cannot be reached ({text}); it was tried again for a while. Check the network and the "
        "address, then go on from the last state of the stream"
    )


def replaced(location: str, case_id: str) -> CorpusError:
    """Error for a case that is another one now than when it was opened."""
    return CorpusError(
        f"{location}: {case_id} was built again while it was read; start again with the corpus as it is now"
    )


def gone(location: str, case_id: str, path: str) -> CorpusError:
    """Error for a case whose documents are not there."""
    return CorpusError(
        f"{location}: {case_id} is not there, or not any more ({path} is missing); if it was removed, bring the "
        "catalog up to date with: atlas verify CORPUS --rebuild-catalog"
    )


def _code(error: Exception) -> str:
    found = _CODE.match(str(error))
    return found.group(1) if found else ""


def _refused(error: Exception) -> bool:
    """Whether a server answered, but with another status than success."""
    return bool(re.search(r"http_response_code=|HTTP code|CURL error", str(error)))
