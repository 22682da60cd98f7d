"""What is wrong with this Keyosk, and its settings."""

from typing import Final

from flask import Response
from marshmallow import fields, validate

from keyosk.checks import NOT_CHECKED, OK, WARNING, WRONG
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Text, described
from keyosk.web.operations import operation
from keyosk.web.responses import json_response
from keyosk.web.schemas import ResponseSchema

_STATES: Final = validate.OneOf([OK, WARNING, WRONG, NOT_CHECKED])


class CheckSchema(ResponseSchema):
    """One thing that was looked at."""

    part = Text(metadata=described("What it is.", "encoding"))
    status = Text(validate=_STATES, metadata=described("How it is.", "ok"))
    found = Text(metadata=described("What was found.", "UTF8"))
    cure = Text(metadata=described("What to do, if anything.", ""))


class DiagnosisSchema(ResponseSchema):
    """What was found."""

    checks = fields.List(
        fields.Nested(CheckSchema), metadata=described("All that was looked at.", [])
    )


class SettingSchema(ResponseSchema):
    """A setting as it is."""

    name = Text(metadata=described("Its name in the environment.", "KEYOSK_ISSUER"))
    value = Text(metadata=described("Its value; a secret is masked.", "https://auth.example.com"))
    source = Text(
        metadata=described("`default`, `environment`, or `file` and a path.", "environment")
    )


class SettingsSchema(ResponseSchema):
    """The settings."""

    items = fields.List(
        fields.Nested(SettingSchema), metadata=described("The settings, as documented.", [])
    )


class DiagnosisResource(Endpoint):
    """What a Keyosk finds wrong with itself."""

    @operation(response=DiagnosisSchema)
    def get(self) -> Response:
        """Look at settings, files, database, signing keys, and workloads' issuers and rules.

        It is what ``keyosk doctor`` looks at, without what needs a view from outside. Keys of
        issuers are not fetched for it: it says how the last fetch went.
        """
        checks = self.installation.diagnosis.checks()
        return json_response({"checks": [check.shape for check in checks]})


class SettingsResource(Endpoint):
    """The settings of the node that answers."""

    @operation(response=SettingsSchema)
    def get(self) -> Response:
        """Return every setting, with secrets masked."""
        return json_response(
            {
                "items": [
                    {"name": name, "value": value, "source": source}
                    for name, value, source in self.installation.diagnosis.settings()
                ]
            }
        )
