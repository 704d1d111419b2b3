package main

import "os/exec"

func asGroup(*exec.Cmd) (kill func()) { return func() {} }
