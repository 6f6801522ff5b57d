"""The echo as Twisted's `Int32StringReceiver` sees it: PORT SIZE.."""

import random
import sys

import twisted
from twisted.internet import reactor
from twisted.internet.protocol import ClientFactory
from twisted.protocols.basic import Int32StringReceiver

port, sizes = int(sys.argv[1]), [int(size) for size in sys.argv[2:]]
payloads = [random.Random(size).randbytes(size) for size in sizes]
outcome = ["not connected"]


class Client(Int32StringReceiver):
    MAX_LENGTH = max(sizes)

    def connectionMade(self):
        self.expected = payloads * 3
        self.received = 0
        self.sendString(payloads[0])

    def stringReceived(self, string):
        expected = self.expected[self.received]
        self.received += 1
        if string != expected:
            self.finish(f"{len(expected)} bytes came back as {len(string)} others")
        elif self.received == len(self.expected):
            self.finish(None)
        elif self.received < len(payloads):
            self.sendString(payloads[self.received])
        elif self.received == len(payloads):
            for payload in payloads * 2:
                self.sendString(payload)

    def lengthLimitExceeded(self, length):
        self.finish(f"a frame of {length} bytes was announced")

    def finish(self, problem):
        outcome[0] = problem
        self.transport.loseConnection()

    def connectionLost(self, reason):
        if self.received < len(self.expected) and outcome[0] == "not connected":
            outcome[0] = f"the connection was lost after {self.received} frames: {reason.getErrorMessage()}"
        if reactor.running:
            reactor.stop()


class Factory(ClientFactory):
    protocol = Client

    def clientConnectionFailed(self, connector, reason):
        outcome[0] = reason.getErrorMessage()
        reactor.stop()


reactor.connectTCP("127.0.0.1", port, Factory())
reactor.run()
if outcome[0] is not None:
    sys.exit(outcome[0])
print(f"Int32StringReceiver, Twisted {twisted.__version__}: "
      f"{3 * len(sizes)} frames of {sizes[0]} to {max(sizes)} bytes are equal")
