"""Questions to Google's own service that nobody has documented the answers of, one a program; no tests of this project.

`make live` asks them; `python -m live.replay` asks one. They want a key in `GEMINI_API_KEY`, and cost a little.
"""
