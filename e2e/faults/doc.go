// Package faults breaks a whole cell in every way that an operator has to
// expect, under load, and checks after each fault what was promised: no answered
// key is lost, none is given to a stranger, no acknowledged change is missing, no
// removed certificate is served, and nobody has to repair anything.
// docs/reliability.md is written by it.
package faults
