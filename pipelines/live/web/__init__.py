"""The web page of a running pipeline: pictures, figures, health and metrics; FastAPI and uvicorn (extra ``live``)."""
