"""What was done per minute, and which nodes there are."""

from typing import Any, ClassVar, Final

from flask import Response
from marshmallow import fields, validate

from keyosk.activity import KEPT
from keyosk.errors import Invalid
from keyosk.times import rfc3339
from keyosk.web import queries
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Flag, LoneTime, Object, Text, Time, Whole, described
from keyosk.web.operations import operation
from keyosk.web.responses import json_response
from keyosk.web.schemas import FUTURE, PAST, Example, ResponseSchema, StrictSchema

_STEPS: Final = (60, 300, 600, 3_600)
_USUAL_STEP: Final = 600
_DAY: Final = 86_400


class ActivityQuery(StrictSchema):
    """Which time, and in which steps."""

    since = LoneTime(metadata=described("From this time on; a day ago by default.", PAST))
    until = LoneTime(metadata=described("Up to this time; now by default.", FUTURE))
    step = Whole(
        validate=validate.OneOf(_STEPS),
        metadata=described("Seconds that are counted together, 600 by default.", 600),
    )


class ActivityCountSchema(ResponseSchema):
    """What was done in one step."""

    time = Time(metadata=described("The beginning of the step.", PAST))
    tokens_issued = Whole(metadata=described("Access tokens issued.", 42))
    tokens_refused = Object(
        metadata=described("Token requests refused, by error code, such as `invalid_client`.", {})
    )
    logins_refused = Object(
        metadata=described(
            "Logins refused, by reason: `wrong`, or `throttled`, which is refused unread.",
            {},
        )
    )


class ActivitySchema(ResponseSchema):
    """What was done, oldest first."""

    since = Time(metadata=described("When the first step begins.", PAST))
    until = Time(metadata=described("When the last one ends.", PAST))
    step = Whole(metadata=described("Seconds in each step.", 600))
    items = fields.List(
        fields.Nested(ActivityCountSchema),
        metadata=described("The steps, also those in which nothing was done."),
    )


class NodeSchema(ResponseSchema):
    """A Keyosk on this database."""

    name = Text(metadata=described("Its machine, and where it listens there.", "api-1:8080"))
    version = Text(metadata=described("Its version.", "1.0.0"))
    started_at = Time(metadata=described("When it started.", PAST))
    last_seen_at = Time(
        attribute="seen_at", metadata=described("When it last said so, to within a minute.", PAST)
    )
    is_up = Flag(metadata=described("Whether that was within the last two minutes.", True))


class NodesSchema(ResponseSchema):
    """The nodes of the last two days."""

    example: ClassVar[Example] = None

    items = fields.List(fields.Nested(NodeSchema), metadata=described("The nodes, by name."))


# One instance, because each new one copies all fields (150 us).
_NODE: Final = NodeSchema()


class ActivityResource(Endpoint):
    """What was done in the last two days."""

    @operation(query=ActivityQuery, response=ActivitySchema, raises=(Invalid,))
    def get(self) -> Response:
        """Return how many tokens were issued and refused, by all nodes together.

        Each node adds what it did every ten seconds; it is kept for two days.
        """
        query = queries.load(ActivityQuery)
        now = int(self.installation.clock())
        step = query.get("step", _USUAL_STEP)
        until = min(query.get("until", now + 1), now + 1)  # this very second is in it
        since = max(query.get("since", until - _DAY), now - KEPT)
        counts = self.installation.activity.counts(since, until, step)
        ends = counts[-1].time + step if counts else until
        return json_response(
            {
                "since": rfc3339(counts[0].time if counts else since),
                "until": rfc3339(ends),
                "step": step,
                "items": [
                    {
                        "time": rfc3339(each.time),
                        "tokens_issued": each.tokens_issued,
                        "tokens_refused": each.tokens_refused,
                        "logins_refused": each.logins_refused,
                    }
                    for each in counts
                ],
            }
        )


class NodesResource(Endpoint):
    """The nodes."""

    @operation(response=NodesSchema)
    def get(self) -> Response:
        """Return the nodes that ran within the last two days, and which of them are up."""
        items = [_node(node, is_up) for node, is_up in self.installation.activity.nodes()]
        return json_response({"items": items})


def _node(node: Any, is_up: bool) -> dict[str, Any]:
    return {**_NODE.dump(node), "is_up": is_up}
