// Package e2e tests the project through its real doors: real binaries, real
// PostgreSQL, real sockets, and clients that the project did not write. It has
// no code but tests.
package e2e
