"""A history of steps over several servers and a Redis whose primary fails, and what must be true of it.

    python -m tests.faults.history --minutes 5 --wait 1

Clients step sessions at random servers and send again what was not answered, while one fault after the other happens.
Each request is kept with its answer, and every answer is compared with ONNX Runtime on the whole sequence.
"""
