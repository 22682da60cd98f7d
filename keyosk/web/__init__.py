"""HTTP, and only HTTP: Flask, Flask-RESTful, marshmallow.

Owns paths, methods, headers, media types and the schemas of bodies. A resource translates a
request to one call of the layer below and its result back; a business rule found here is misplaced.

Every request passes the same pipeline (``application``): a request id, a limit of its size, the
access decision that ``routes`` states for its path and method, the resource, and the headers of
every response. Only ``errors`` turns exceptions into responses.
"""
