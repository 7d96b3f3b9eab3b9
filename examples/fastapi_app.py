"""An application of your own in front of ``okr serve``: it gives the text to a reader and keeps what proves it.

    okr serve tiny --key key.json
    OKR_SERVER=http://localhost:8000 uvicorn --app-dir examples fastapi_app:app --port 9000
    curl -s http://localhost:9000/write -H 'content-type: application/json' -d '{"prompt": "The whale"}'

Prints ``{"id": "...", "text": "...", "key_id": "..."}``. ``GET /answers/ID`` returns the whole answer of the server;
``okr verify tiny answer.json --key key.json`` proves it. FastAPI and httpx come with vLLM.
"""

import os
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()
answers: dict[str, dict[str, Any]] = {}  # a database, in earnest


class Request(BaseModel):
    """What a reader asks for."""

    prompt: str
    max_tokens: int = 48


@app.post("/write")
async def write(request: Request) -> dict[str, str]:
    """Have the server continue the prompt. The routing stays here: readers need the text and the key's public id."""
    body = request.model_dump() | {"model": os.environ.get("OKR_MODEL", "tiny"), "return_token_ids": True}
    server = os.environ.get("OKR_SERVER", "http://localhost:8000")
    async with httpx.AsyncClient(base_url=server, timeout=300) as client:
        answered = await client.post("/v1/completions", json=body)
    if answered.is_error:
        raise HTTPException(502, f"the server of the model answered {answered.status_code}")
    answer = answered.json()
    answers[answer["id"]] = answer
    return {"id": answer["id"], "text": answer["choices"][0]["text"], "key_id": answer["okr_key_id"]}


@app.get("/answers/{name}")
async def whole_answer(name: str) -> dict[str, Any]:
    """What ``okr verify`` needs. Keep it from readers who shall not see the routing."""
    if name not in answers:
        raise HTTPException(404, "no such answer")
    return answers[name]
