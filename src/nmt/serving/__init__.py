"""`nmt serve`: translations over HTTP.

One process speaks HTTP (`app`, `server`), checks what it is asked (`request`) and puts sentences of different requests
together (`batcher`); others hold a model each and translate (`worker`).
"""
