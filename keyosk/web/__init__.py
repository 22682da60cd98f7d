"""HTTP, and nothing but HTTP: Flask, Flask-RESTful, marshmallow.

Owns addresses, methods, headers, media types and the shapes of bodies. A resource translates a
request to one call of the floor below and its result back; a business rule found here is misplaced.

Every request passes the same pipeline (``application``): a request id, a bound on its size, the
access decision that ``routes`` states for its address and method, the resource, the headers that
every response has. What goes wrong anywhere becomes a response in ``errors``, and only there.
"""
