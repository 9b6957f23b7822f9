"""The connection to the server: address, TLS, headers, keepalive. Imports only errors and deadlines of the library."""
