"""Responses, from any thread → sent, each generation's in their order, while the engine goes on with its next step.

openvino_genai's step() holds Python's interpreter lock, but sending is a wait for the server that needs none: a response
that its thread has begun to send before a step goes out during it. The thread itself comes back after the step, so each
generation has one of its own as long as there are enough.
"""

import queue
import threading
import time

_FINAL = 1  # TRITONSERVER_RESPONSE_COMPLETE_FINAL
# Generations beyond them share them: of two on one thread the second's response waits until the first's has arrived.
_THREADS = 32
# Where nothing is sent, nothing else gives the interpreter up, and it was seen that a request waited for seconds to come in.
_OTHERS_TURN_S = 0.0002


class Senders:
    """is_gone(sender) → whether nobody waits any more; send(sender, response, flags) sends."""

    def __init__(self, is_gone, send):
        self._is_gone, self._send = is_gone, send
        self._live = {}
        self._put = []
        self._waiting = 0
        self._lock = threading.Condition()
        self._lanes = [_Lane(self._begin, send) for _ in range(_THREADS)]

    def open(self, generation, sender):
        """A generation that will be answered; before any response to it."""
        with self._lock:
            lane = min(self._lanes, key=lambda lane: lane.generations)
            lane.generations += 1
            self._live[generation] = _Open(sender, lane)

    def put(self, generation, sender, response, flags):
        """To be sent by the next settle(); with the final flag the last of its generation (None where there never was one)."""
        with self._lock:
            known = self._live.get(generation)
            if known is None:
                known = _Open(sender, self._lanes[0])
            elif flags & _FINAL:
                del self._live[generation]
                known.lane.generations -= 1
            self._put.append((known, response, flags))

    def settle(self):
        """Returns when all that was put is on its way. A step's responses go together: a thread that is woken before the
        engine gives up the interpreter only takes its core."""
        with self._lock:
            put, self._put = self._put, []
            self._waiting += len(put)
            for known, response, flags in put:
                known.lane.queue.put((known, response, flags))
            while self._waiting:
                self._lock.wait()
        if not put:
            time.sleep(_OTHERS_TURN_S)

    def live(self):
        """Generations whose last response was not put yet and that were not cancelled."""
        with self._lock:
            return [generation for generation in self._live if not generation.cancelled]

    def is_gone(self, generation):
        """Whether nobody waits for a generation any more. A sender must not be asked after its last response."""
        with self._lock:
            known = self._live.get(generation)
        if known is None:
            return False
        with known.asking:
            return not known.is_closed and self._is_gone(known.sender)

    def stop(self):
        """Returns when all is sent and the threads have ended."""
        for lane in self._lanes:
            lane.queue.put(None)
        for lane in self._lanes:
            lane.thread.join()

    def _begin(self):
        with self._lock:
            self._waiting -= 1
            if not self._waiting:
                self._lock.notify_all()


class _Open:
    """A generation that is answered. asking: held while its sender is asked whether the client is gone."""

    def __init__(self, sender, lane):
        self.sender, self.lane = sender, lane
        self.asking, self.is_closed = threading.Lock(), False


class _Lane:
    """A thread that sends the responses of its generations. begin() is called where only the sending itself is left."""

    def __init__(self, begin, send):
        self.generations = 0
        self.queue = queue.SimpleQueue()
        self._begin, self._send = begin, send
        self.thread = threading.Thread(target=self._run, name="vllm-sender", daemon=True)
        self.thread.start()

    def _run(self):
        while (item := self.queue.get()) is not None:
            known, response, flags = item
            if flags & _FINAL:
                with known.asking:
                    known.is_closed = True
            # Whoever waits for this gets the interpreter when send() gives it up, which is the first thing it does.
            self._begin()
            self._send(known.sender, response, flags)
