package monitor

import "testing"

// A monitor whose container is started again before it has gone does not take the name of
// the socket from the next one.
func TestSocketOfTheNextMonitorStays(t *testing.T) {
	dir := t.TempDir()
	before, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	next, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.close(); err != nil {
		t.Error(err)
	}
	conn, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := next.close(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(dir); err == nil {
		t.Error("a socket that nobody listens on takes a client")
	}
}
