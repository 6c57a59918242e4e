"""Responses, from any thread → sent, each generation's in their order, before the engine's next step takes the interpreter.

openvino_genai's step() holds Python's interpreter lock: what is not on its way when a step begins is sent after it. Sending
is mostly waiting for the server, so several threads share it.
"""

import queue
import threading

_FINAL = 1  # TRITONSERVER_RESPONSE_COMPLETE_FINAL
_THREADS = 4


class Senders:
    """is_gone(sender) → whether nobody waits any more; send(sender, response, flags) sends."""

    def __init__(self, is_gone, send):
        self._is_gone, self._send = is_gone, send
        self._live = {}
        self._open = 0
        self._lock = threading.Condition()
        self._queues = [queue.SimpleQueue() for _ in range(_THREADS)]
        self._threads = [
            threading.Thread(target=self._run, args=(one,), name="vllm-sender", daemon=True)
            for one in self._queues
        ]
        for thread in self._threads:
            thread.start()

    def open(self, generation, sender):
        """A generation that will be answered; before any response to it."""
        with self._lock:
            self._live[generation] = sender

    def put(self, generation, sender, response, flags):
        """To be sent; with the final flag the last of its generation (None where there never was one)."""
        with self._lock:
            self._open += 1
            if flags & _FINAL:
                self._live.pop(generation, None)
        self._queues[hash(sender) % _THREADS].put((sender, response, flags))

    def settle(self):
        """Returns when all that was put is sent."""
        with self._lock:
            while self._open:
                self._lock.wait()

    def live(self):
        """Generations whose last response was not put yet and that were not cancelled."""
        with self._lock:
            return [generation for generation in self._live if not generation.cancelled]

    def is_gone(self, generation):
        """Whether nobody waits for a generation any more. A sender must not be asked after its last response."""
        with self._lock:
            sender = self._live.get(generation)
            return sender is not None and self._is_gone(sender)

    def stop(self):
        """Returns when all is sent and the threads have ended."""
        for one in self._queues:
            one.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, own):
        while (item := own.get()) is not None:
            self._send(*item)
            with self._lock:
                self._open -= 1
                if not self._open:
                    self._lock.notify_all()
