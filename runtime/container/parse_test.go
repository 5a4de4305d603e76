package container

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestLimitsOfRecords(t *testing.T) {
	rec := func() *Record {
		return &Record{Version: recordVersion, ID: NewID(), Name: "web", Log: LogConfig{Driver: LogNone}, Restart: RestartPolicy{Mode: RestartNo}}
	}
	full := rec()
	full.Mounts = make([]Mount, maxMounts)
	for i := range full.Mounts {
		full.Mounts[i].Kind = MountTmpfs
	}
	if _, err := encodeRecord(full); err != nil {
		t.Errorf("at the limit of mounts: %v", err)
	}
	full.Mounts = append(full.Mounts, Mount{Kind: MountTmpfs})
	if _, err := encodeRecord(full); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("one mount more: %v", err)
	}
	big := rec()
	data, err := encodeRecord(big)
	if err != nil {
		t.Fatal(err)
	}
	pad := func(n int) []byte { return append(data, strings.Repeat(" ", n-len(data))...) }
	if _, err := parseRecord(pad(maxRecordBytes)); err != nil {
		t.Errorf("at the limit of bytes: %v", err)
	}
	if _, err := parseRecord(pad(maxRecordBytes + 1)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("one byte more: %v", err)
	}
	st, err := encodeState(&State{Version: recordVersion, Status: Created})
	if err != nil {
		t.Fatal(err)
	}
	state := func(n int) []byte { return append(st, strings.Repeat(" ", n-len(st))...) }
	if _, err := parseState(state(maxStateBytes)); err != nil {
		t.Errorf("at the limit of a state's bytes: %v", err)
	}
	if _, err := parseState(state(maxStateBytes + 1)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("one byte more: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	data, err := json.Marshal(Record{Version: 1, ID: NewID(), Name: "web", Log: LogConfig{Driver: LogJSON}, Restart: RestartPolicy{Mode: RestartAlways}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err != nil {
			return
		}
		again, err := encodeRecord(rec)
		if err != nil {
			t.Fatalf("what was read is refused when written: %v", err)
		}
		if _, err := parseRecord(again); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"status":"running","monitor":{"pid":1,"start":2,"boot":"x","ns":"y"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if st, err := parseState(data); err == nil {
			st.truth()
		}
	})
}
