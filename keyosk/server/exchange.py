"""One request and its answer, in a thread: parse, call the application, send.

The request is complete when it comes here, except for the body of a stream. gunicorn's parser,
environ and response do the HTTP.
"""

import io
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from gunicorn.http import RequestParser
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.wsgi import create

from keyosk.server import answers
from keyosk.server.answers import Problem
from keyosk.server.connection import ClientGone, Connection, Outlet, Upload
from keyosk.server.framing import Step
from keyosk.server.lane import Lane, LaneFull
from keyosk.server.logs import ErrorStream
from keyosk.server.options import Environ, Options

_VERSIONS = ((1, 0), (1, 1))
#: In the environ of a request that is not slow: see Options.slow.
HAND_OVER = "server.hand_over"


class TakesLong(BaseException):
    """The request is to begin anew where it may take long; no handler of errors is to see it."""


def _hand_over() -> NoReturn:
    raise TakesLong


class _Task(NamedTuple):
    """A parsed request, ready to run."""

    request: Any
    response: Any
    environ: Environ
    outlet: Outlet
    upload: Upload | None
    lanes: tuple[Lane, ...]  # to be held while it runs, in this order
    held: list[Lane]


class Exchange:
    """Answers requests of an application; shared by all threads of a worker.

    `stopping` says whether connections are to be closed after their answer, `resume` runs a
    connection that has waited for a lane.
    """

    def __init__(
        self,
        application: Any,
        cfg: Any,
        log: Any,
        options: Options,
        *,
        stopping: Callable[[], bool],
        resume: Callable[[Connection], None],
    ) -> None:
        self._application = application
        self._cfg = cfg
        self._log = log
        self._options = options
        self.stopping = stopping
        self._resume = resume
        self._errors = ErrorStream(log)
        # One thread always stays free for what is not slow, and one for what cannot hang.
        slow_threads = max(1, min(options.slow_threads, options.threads - 1))
        self._slow = Lane(slow_threads, options.slow_queue)
        self._usual = Lane(options.threads, options.connections)

    def answer(self, connection: Connection) -> bool:
        """Run one request; False if it has to wait for a lane. Raises ClientGone."""
        task: _Task | None = connection.task
        connection.task = None
        if task is None:
            task = self._prepare(connection)
            if task is None:
                return True
        else:
            task.held.append(task.lanes[len(task.held)])  # the one it waited for
        try:
            return self._enter_and_run(connection, task)
        except TakesLong:
            return self._enter_and_run(connection, task._replace(lanes=(self._slow, self._usual)))

    def _enter_and_run(self, connection: Connection, task: _Task) -> bool:
        """As ``answer``. Raises TakesLong, with no lane held any more."""
        try:
            for lane in task.lanes[len(task.held) :]:
                connection.task = task
                # From here on the lane may give the connection to another thread.
                if not lane.enter(connection):
                    return False
                connection.task = None
                task.held.append(lane)
        except LaneFull:
            connection.task = None
            self._leave(task)
            self.refuse(connection, answers.OVERLOADED, head=task.request.method == "HEAD")
            return True
        try:
            self._run(connection, task)
        finally:
            self._leave(task)
        return True

    def _leave(self, task: "_Task") -> None:
        while task.held:
            following = task.held.pop().leave()
            if following is not None:
                self._resume(following)

    def _lanes(self, environ: Environ, upload: Upload | None) -> tuple[Lane, ...]:
        options = self._options
        if options.instant and options.instant(environ):
            return ()
        if upload or (options.slow and options.slow(environ)):
            return (self._slow, self._usual)
        return (self._usual,)

    def _parse(self, connection: Connection) -> tuple[Any, bytes, Upload | None]:
        """The parsed head, and the body or what reads it. Raises gunicorn's parser's exceptions."""
        framing = connection.framing
        if connection.step is Step.STREAM:
            upload = Upload(connection, self._options.request_timeout)
            request = next(RequestParser(self._cfg, upload.source(), connection.client))
            upload.body = request.body
            return request, b"", upload
        parser = RequestParser(self._cfg, (connection.take(),), connection.client)
        request = next(parser)
        body = request.body.read()
        # SECURITY: the parser has seen exactly the bytes that we took for one request. If it reads
        # them in another way than we did, or if we found them odd and it did not, someone is trying
        # to smuggle a request.
        alike = framing.chunked or len(body) == framing.end - framing.head
        if framing.odd or not alike or parser.unreader.take_buffered():
            raise ParseException("read in two ways")
        return request, body, None

    def _prepare(self, connection: Connection) -> _Task | None:
        """Parse the request. None if it was refused; the answer is then in `connection.out`."""
        is_head = connection.buffer.startswith(b"HEAD ")
        try:
            request, body, upload = self._parse(connection)
            # The answer's status line repeats the version, and these are all that we speak.
            if request.version not in _VERSIONS:
                raise ParseException("another version")
            # RFC 9112, section 3.2: 400 for a request without Host.
            if request.version >= (1, 1) and all(name != "HOST" for name, _ in request.headers):
                raise ParseException("no Host")
        except (ParseException, NoMoreData, StopIteration) as fault:
            self.refuse(connection, answers.problem_of(fault), head=is_head)
            return None
        outlet = Outlet(connection.sock, self._options.reply_bytes, self._options.send_timeout)
        response, environ = create(request, outlet, connection.client, connection.server, self._cfg)
        response.version = self._options.server_name
        environ["SERVER_SOFTWARE"] = self._options.server_name
        environ["wsgi.multithread"] = True
        environ["wsgi.errors"] = self._errors
        if upload is not None:
            response.force_close()
            environ["wsgi.input"] = io.BufferedReader(upload)
        else:
            environ["wsgi.input"] = io.BytesIO(body)
            if connection.framing.chunked:
                # The chunks are gone: the application sees a body of known length.
                environ.pop("HTTP_TRANSFER_ENCODING", None)
                environ["CONTENT_LENGTH"] = str(len(body))
        lanes = self._lanes(environ, upload)
        return _Task(request, response, environ, outlet, upload, lanes, [])

    def _run(self, connection: Connection, task: _Task) -> None:
        response, outlet, upload = task.response, task.outlet, task.upload
        failure: BaseException | None = None
        try:
            environ = dict(task.environ)  # the application may be called once more
            if self._slow not in task.lanes:
                environ[HAND_OVER] = _hand_over
            elif upload is None:
                environ["wsgi.input"].seek(0)
            parts = self._application(environ, response.start_response)
            if self.stopping():
                response.force_close()
            try:
                for part in parts:
                    response.write(part)
                    if response.sent != response.response_length:
                        outlet.flush()  # more will come, and perhaps not soon
                response.close()
                if upload is None or upload.problem is None:
                    # Now, as what the application does after its answer may take its time.
                    connection.out = outlet.flush()
            finally:
                if hasattr(parts, "close"):
                    parts.close()
        except ClientGone:
            raise
        except (Exception, SystemExit) as fault:  # noqa: BLE001  # the application's, any
            failure = fault
        # Whatever the application made of a body that could not be read (most make it a 500 or
        # raise): the client is at fault.
        problem = upload.problem if upload is not None else None
        if failure is not None and problem is None:
            self._log.error("the application failed", exc_info=failure)
            problem = answers.INTERNAL
        if problem is not None:
            if outlet.on_wire:
                # The client must not take what it has for the whole: no end of chunks, no length.
                raise ClientGone from failure
            self.refuse(connection, problem, head=task.request.method == "HEAD")
            return
        connection.keep = not response.should_close() and _is_whole(task)

    def refuse(self, connection: Connection, problem: Problem, *, head: bool) -> None:
        """Put our own answer into `connection.out`; the connection closes after it."""
        request_id = str(uuid.uuid4())
        # Nothing of the request goes into the log: it may be a secret.
        address = connection.client[0] if isinstance(connection.client, tuple) else "unix"
        self._log.info("%d %s from %s, %s", problem.status, problem.code, address, request_id)
        headers = (("Server", self._options.server_name), *self._options.error_headers)
        connection.out = problem.render(request_id, headers=headers, body=not head)
        connection.keep = False


def _is_whole(task: _Task) -> bool:
    """Whether the answer is as long as it said, so that the next one starts where it must."""
    response = task.response
    if response.response_length is None or task.request.method == "HEAD":
        return True
    return response.sent == response.response_length or response.status_code in (204, 304)
