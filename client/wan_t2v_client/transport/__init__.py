"""How a call reaches the server: address, TLS, headers, keepalive. Imports errors and deadlines of the library only."""
