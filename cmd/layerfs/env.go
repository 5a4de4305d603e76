package main

import (
	"fmt"
	"os"
	"strings"
)

// envArg reads an argument of --env: NAME=VALUE as it is, NAME with the value that it
// has here, or not at all when it has none.
func envArg(arg string) (string, bool, error) {
	name, _, set := strings.Cut(arg, "=")
	if name == "" {
		return "", false, usageError{fmt.Errorf("--env %q: want NAME=VALUE or NAME", arg)}
	}
	if set {
		return arg, true, nil
	}
	v, ok := os.LookupEnv(name)
	return name + "=" + v, ok, nil
}
