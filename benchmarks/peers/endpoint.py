"""A FastAPI endpoint that reads the body and answers a constant: what the framework costs."""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response

_ANSWER = b'{"output":[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9]}'

app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    await request.body()
    return Response(_ANSWER, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
