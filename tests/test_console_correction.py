"""A form of the console that was refused: what was typed can be corrected."""

from live import Client, unique
from pages import Browser, Page


def test_what_was_typed_is_there_again_but_no_secret(root: Browser, admin: Client) -> None:
    forms = root.get("/console/accounts").forms
    (fields,) = [form.fields for form in forms if "display_name" in form.fields]
    name = unique("carol")
    wrong = {"username": f"{name} smith", "display_name": "Carol & co", "kind": "machine"}
    wrong |= {"password": "secret-words"}
    page = Page(root.post("/console/accounts", fields | wrong))
    assert (page.status, page.h1) == (422, "Something has to be corrected")
    assert page.text.count("username: must not contain") == 1
    (form,) = [form for form in page.forms if "display_name" in form.fields]
    assert (form.action.endswith("/console/accounts"), form.method) == (True, "post")
    assert form.fields["once"] not in ("", fields["once"])  # that key belongs to other fields
    shown = {"username": f"{name} smith", "display_name": "Carol & co", "kind": "machine"}
    assert form.fields | {**shown, "password": ""} == form.fields
    assert "secret-words" not in repr(page.tags)
    corrected = form.fields | {"username": name}
    assert root.post("/console/accounts", corrected).status_code == 303
    assert admin.get(f"/accounts/{name}").json()["display_name"] == "Carol & co"


def test_a_form_of_other_fields_is_not_shown_again(root: Browser) -> None:
    page = Page(root.post("/console/api-keys/find", {"secret": "a password"}))
    assert page.status == 422
    assert all(not form.action.endswith("/find") for form in page.forms)
    assert "a password" not in repr(page.tags) + page.text
    several = {"act": "nonsense", "account": ["a", "b"]}
    page = Page(root.post("/console/accounts/bulk", several))  # type: ignore[arg-type]
    assert all(not form.action.endswith("/bulk") for form in page.forms)
