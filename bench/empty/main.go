// Command empty does nothing: what starting a static Go program costs.
package main

func main() {}
