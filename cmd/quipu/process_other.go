//go:build !unix

package main

import "os/exec"

// ownProcessGroup does nothing: without process groups, a child gets the
// terminal's signals and stops by itself.
func ownProcessGroup(*exec.Cmd) {}
