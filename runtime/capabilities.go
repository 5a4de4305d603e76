package runtime

// Capabilities returns the names of all capabilities that this package knows, in the
// order of their numbers.
func Capabilities() []string { return append([]string(nil), capabilities[:]...) }
