package main

import (
	"os"
	"os/signal"
	"syscall"
)

// catchSignals lets the first Ctrl-C cancel what is under way, which cleans up, and the
// second end the program at once. Commands have nothing to clean up before they open
// the store, so that is when it is called; until then a signal ends the program.
func (a *app) catchSignals() {
	if a.caught || a.cancel == nil {
		return
	}
	a.caught = true
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup does
		signals = append(signals, syscall.SIGHUP)
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, signals...)
	go func() {
		<-c
		signal.Stop(c)
		a.cancel()
	}()
}
