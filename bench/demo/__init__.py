"""A FastAPI application on uvicorn, served by loopfast: shown at work, and beside the other loops."""
