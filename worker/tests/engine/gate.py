# Connects to the machine that the engine is on, waits there for a byte, says so, and fails.
import socket
import sys

routes = [line.split() for line in open("/proc/net/route")]
gateway = next(route[2] for route in routes if route[1] == "00000000")
address = socket.inet_ntoa(bytes.fromhex(gateway)[::-1])
gate = socket.create_connection((address, int(sys.argv[1])))
gate.recv(1)
print("through", flush=True)
sys.exit(9)
