package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
)

// Membership is what a container has of one network.
type Membership struct {
	Network   string `json:"network"`
	Interface string `json:"interface"` // in the container
	Peer      string `json:"peer"`      // its other end, on the host
	// IPv4 and IPv6 are the container's addresses, with the lengths of their subnets.
	IPv4     netip.Prefix `json:"ipv4"`
	IPv6     netip.Prefix `json:"ipv6,omitzero"`
	Gateway4 netip.Addr   `json:"gateway4,omitzero"` // the zero Addr in internal networks
	Gateway6 netip.Addr   `json:"gateway6,omitzero"`
	MAC      string       `json:"mac"`
	Names    []string     `json:"names,omitempty"` // by which others of the network find it
}

// Record is what a container was given.
type Record struct {
	ID       string        `json:"id"`
	Name     string        `json:"name,omitempty"`
	Networks []Membership  `json:"networks"`
	Ports    []PortMapping `json:"ports,omitempty"`
}

const (
	recordFile = "record.json"
	hostsFile  = "hosts"
	resolvFile = "resolv.conf"

	recordPerm = 0o600

	maxRecord = 4 << 20 // bytes in the record of a container
)

// Inspect returns what a container has. The error wraps [fs.ErrNotExist] if it has
// nothing.
func (n *Networks) Inspect(id string) (*Record, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return n.record(id)
}

func (n *Networks) record(id string) (*Record, error) {
	data, err := n.read(path.Join(dirContainers, id, recordFile), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("network of container %s: %w", id, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read record of network of container %s: %w", id, err)
	}
	rec := new(Record)
	if err := json.Unmarshal(data, rec); err != nil || rec.ID != id {
		return nil, fmt.Errorf("record of network of container %s: damaged: %w", id, errors.Join(fs.ErrInvalid, err))
	}
	return rec, nil
}

func (n *Networks) writeRecord(rec *Record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return n.replace(path.Join(dirContainers, rec.ID, recordFile), data)
}

// replace writes a file whole or not at all, as other processes see it. It is not
// flushed: it means nothing after a restart of the machine.
func (n *Networks) replace(name string, data []byte) error {
	temp := name + ".new"
	f, err := n.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, recordPerm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(recordPerm), f.Close()); err == nil {
		err = n.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, n.root.Remove(temp))
	}
	return nil
}

// targets returns where the published ports lead: to the first network that has a way
// out.
func (rec *Record) targets() []target {
	var out []target
	for _, m := range rec.Networks {
		if !m.Gateway4.IsValid() {
			continue
		}
		for _, p := range rec.Ports {
			for _, addr := range []netip.Addr{m.IPv4.Addr(), m.IPv6.Addr()} {
				if addr.IsValid() && (!p.HostIP.IsValid() || p.HostIP.Is6() == addr.Is6()) {
					out = append(out, target{p, addr})
				}
			}
		}
		break
	}
	return out
}

// readAll reads a file of at most limit bytes.
func readAll(f *os.File, limit int64) ([]byte, error) {
	var b bytes.Buffer
	m, err := b.ReadFrom(io.LimitReader(f, limit+1))
	if err == nil && m > limit {
		err = fmt.Errorf("%s has more than %d bytes: %w", f.Name(), limit, fs.ErrInvalid)
	}
	return b.Bytes(), err
}
