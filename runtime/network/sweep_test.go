package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// attacher marks the test program that attaches and detaches until it is killed, with
// the directory as its value.
const attacher = "LAYERFS_TEST_ATTACHER"

func attachForever(dir string) error {
	n, err := Open(dir, Options{Resolv: "/dev/null"})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for i := 0; ; i++ {
		id := fmt.Sprintf("p%d-%d", os.Getpid(), i)
		a, err := n.Attach(ctx, Request{ID: id, Name: id, Network: joined("app"), Ports: []PortMapping{{ContainerPort: 80, Protocol: TCP}}})
		if err != nil {
			return err
		}
		fmt.Println(id)
		if i%2 == 0 {
			if err := errors.Join(a.Close(), n.Detach(ctx, id)); err != nil {
				return err
			}
		}
	}
}

// Whatever a process was doing when it was killed, a sweep leaves nothing of it, and
// everything of the others.
func TestKilledAnywhere(t *testing.T) {
	w := newWorld(t)
	w.create(t, Spec{Name: "app", EnableIPv6: true})
	other := w.attach(t, Request{ID: "other", Name: "other", Network: joined("app"), Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}})
	echo(t, other.File(), "other", 80)
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		cmds := make([]*exec.Cmd, 3)
		for i := range cmds {
			cmds[i] = exec.CommandContext(t.Context(), "/proc/self/exe")
			cmds[i].Env = append(os.Environ(), attacher+"="+w.dir)
			cmds[i].SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
			var errs strings.Builder
			cmds[i].Stderr = &errs
			out, err := cmds[i].StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmds[i].Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				_ = cmds[i].Wait()
				t.Fatalf("attach nothing: %v: %s", err, errs.String())
			}
		}
		for _, cmd := range cmds {
			time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed
		}
		if err := w.Sweep(t.Context(), func(id string) bool { return id == "other" }); err != nil {
			t.Fatal(err)
		}
		w.wantOnly(t, other)
	}
	wantAnswer(t, w.street, "tcp", "198.51.100.1:8080", "other 198.51.100.2")
}

// wantOnly checks that there are leases, names, ports and interfaces of one container
// and no other.
func (w *world) wantOnly(t *testing.T, a *Attachment) {
	t.Helper()
	for dir, want := range map[string][]string{
		dirContainers:               {a.rec.ID},
		"networks/app/" + dirLeases: {a.ip().String(), a.ip6().String()},
		"networks/app/" + dirNames:  a.rec.Networks[0].Names,
	} {
		got, err := w.names(dir)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s holds %v, %v; want %v", dir, got, err, want)
		}
	}
	h, err := openHost(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	links, err := h.route.links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.kind == kindVeth && l.name != a.rec.Networks[0].Peer && l.name != "street0" {
			t.Errorf("left: interface %s", l.name)
		}
	}
	for name, set := range h.fw.sets {
		if !set.IsMap {
			continue
		}
		elements, err := h.fw.elements(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range elements {
			if e.Comment != a.rec.ID {
				t.Errorf("left in %s: a port of %s", name, e.Comment)
			}
		}
	}
}

func TestAttachAtTheSameTime(t *testing.T) {
	w := newWorld(t)
	const containers = 50
	attached := make([]*Attachment, containers)
	var g errgroup.Group
	for i := range attached {
		g.Go(func() (err error) {
			attached[i], err = w.Attach(t.Context(), Request{ID: fmt.Sprint("c", i), Ports: []PortMapping{{ContainerPort: 80, Protocol: TCP}}})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	addrs, ports := map[netip.Addr]bool{}, map[uint16]bool{}
	for _, a := range attached {
		addrs[a.ip()], ports[a.rec.Ports[0].HostPort] = true, true
	}
	if len(addrs) != containers || len(ports) != containers {
		t.Errorf("%d addresses and %d ports for %d containers", len(addrs), len(ports), containers)
	}
	for i := range attached {
		g.Go(func() error {
			return errors.Join(attached[i].Close(), w.Detach(context.Background(), fmt.Sprint("c", i)))
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// Another's rules are not touched, whether those of this package are there or not.
func TestForeignTables(t *testing.T) {
	testenv.Tools(t, "nft")
	w := newWorld(t)
	testenv.Output(t, "nft", "add table ip other; add chain ip other post { type nat hook postrouting priority 100; }; add rule ip other post counter masquerade; add table inet layerfs2; add set inet layerfs2 bridges { type ifname; elements = { lo } }")
	defer testenv.Output(t, "nft", "delete table ip other; delete table inet layerfs2")
	dump := func() string {
		return testenv.Output(t, "nft", "-s", "list table ip other") + testenv.Output(t, "nft", "list table inet layerfs2")
	}
	before := dump()
	a := w.attach(t, Request{ID: "a", Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}})
	if got := dump(); got != before {
		t.Errorf("after an attach:\n%s\nwas\n%s", got, before)
	}
	if err := errors.Join(a.Close(), w.Detach(t.Context(), "a"), w.Sweep(t.Context(), func(string) bool { return false })); err != nil {
		t.Fatal(err)
	}
	if got := dump(); got != before {
		t.Errorf("after a sweep:\n%s\nwas\n%s", got, before)
	}
}

// Somebody flushed all rules: the next attach brings back those of all containers.
func TestFlushedTable(t *testing.T) {
	w := newWorld(t)
	a := w.attach(t, Request{ID: "a", Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}})
	echo(t, a.File(), "a", 80)
	fw, err := openFirewall()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fw.remove(), fw.Close()); err != nil {
		t.Fatal(err)
	}
	w.attach(t, Request{ID: "b"})
	wantAnswer(t, w.street, "tcp", "198.51.100.1:8080", "a 198.51.100.2")
}

// A store that somebody removed with all its records leaves a bridge, which the sweep of
// another one finds; a bridge of a store that is there stays.
func TestRemovedDirectory(t *testing.T) {
	w := newWorld(t)
	stores := map[string]string{"gone": t.TempDir(), "there": t.TempDir()}
	bridges := map[string]string{}
	for name, dir := range stores {
		n, err := Open(dir, Options{Resolv: "/dev/null"})
		if err != nil {
			t.Fatal(err)
		}
		a, err := n.Attach(t.Context(), Request{ID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(a.Close(), n.Detach(t.Context(), "a")); err != nil {
			t.Fatal(err)
		}
		// Not yet the end of the namespace, which the kernel is working at.
		if err := n.Sweep(t.Context(), func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
		at, err := openHost(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.bridge(t.Context(), at, first(n.networks())); err != nil {
			t.Fatal(err)
		}
		bridges[name] = first(n.networks()).Bridge
		if err := errors.Join(at.Close(), n.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(stores["gone"]); err != nil {
		t.Fatal(err)
	}
	sweep := func(n *Networks) {
		if err := n.Sweep(t.Context(), func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
	}
	sweep(w.Networks)
	r, err := openRoute()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.link(bridges["gone"]); !errors.Is(err, unix.ENODEV) {
		t.Errorf("the bridge of a removed directory: %v", err)
	}
	if _, err := r.link(bridges["there"]); err != nil {
		t.Errorf("the bridge of another directory: %v", err)
	}
	n, err := Open(stores["there"], Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	sweep(n)
}

func first(all []*Network, _ error) *Network { return all[0] }

func TestForeignBridge(t *testing.T) {
	w := newWorld(t)
	r, err := openRoute()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mine := []byte{2, 0, 0, 0, 0, 1}
	if err := r.addBridge("layerfs0", mine, defaultMTU); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r2delete("layerfs0"); err != nil {
			t.Error(err)
		}
	}()
	nw, err := w.networkFor(t.Context(), DefaultNetwork)
	if err != nil || nw.Bridge != "layerfs1" {
		t.Errorf("the default network has bridge %s, %v", nw.Bridge, err)
	}
	// Another store was faster to make its own.
	if err := r.addBridge("layerfs1", mine, defaultMTU); err != nil {
		t.Fatal(err)
	}
	w.attach(t, Request{ID: "a"})
	if nw, err = w.network(DefaultNetwork); err != nil || nw.Bridge != "layerfs2" {
		t.Errorf("the default network has bridge %s, %v", nw.Bridge, err)
	}
	if err := r2delete("layerfs1"); err != nil {
		t.Error(err)
	}
	foreign := w.create(t, Spec{Name: "app"})
	if err := r.addBridge(foreign.Bridge, mine, defaultMTU); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Attach(t.Context(), Request{ID: "b", Network: joined("app")}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("another's bridge is used: %v", err)
	}
	if err := w.Remove(t.Context(), "app"); err != nil {
		t.Error(err)
	}
	if err := r2delete(foreign.Bridge); err != nil {
		t.Errorf("another's bridge: %v", err)
	}
}

// A subnet that another interface has got after the network was made is refused, and not
// used beside it: packets for members would be sent there.
func TestSubnetOfAnother(t *testing.T) {
	w := newWorld(t)
	r, err := openRoute()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	nw := w.create(t, Spec{Name: "app"})
	const other = "other"
	if err := r.addBridge(other, []byte{2, 0, 0, 0, 0, 1}, defaultMTU); err != nil {
		t.Fatal(err)
	}
	l, err := r.link(other)
	if err == nil {
		err = errors.Join(r.addAddress(l.index, netip.PrefixFrom(nw.Gateway4, nw.IPv4.Bits())), r.switchOnAs(l.index, other))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Attach(t.Context(), Request{ID: "a", Network: joined("app")}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a subnet that another interface has: %v", err)
	}
	if err := r2delete(other); err != nil {
		t.Fatal(err)
	}
	w.attach(t, Request{ID: "a", Network: joined("app")})
}

func TestAddresses(t *testing.T) {
	w := newWorld(t)
	small := w.create(t, Spec{Name: "small", IPv4: netip.MustParsePrefix("192.0.2.0/29")})
	fixed := joined("small")
	fixed.Endpoints[0].IPv4 = netip.MustParseAddr("192.0.2.5")
	w.attach(t, Request{ID: "fixed", Network: fixed})
	if _, err := w.Attach(t.Context(), Request{ID: "again", Network: fixed}); !errors.Is(err, fs.ErrExist) || !contains(err, "container fixed has it") {
		t.Errorf("an address given twice: %v", err)
	}
	for _, wrong := range []string{"192.0.2.0", "192.0.2.1", "192.0.2.7", "192.0.2.8", "10.0.0.1"} {
		fixed.Endpoints[0].IPv4 = netip.MustParseAddr(wrong)
		if _, err := w.Attach(t.Context(), Request{ID: "wrong", Network: fixed}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("address %s of %s: %v", wrong, small.IPv4, err)
		}
	}
	for i := range 4 {
		w.attach(t, Request{ID: fmt.Sprint("c", i), Network: joined("small")})
	}
	if _, err := w.Attach(t.Context(), Request{ID: "more", Network: joined("small")}); !errors.Is(err, fs.ErrExist) || !contains(err, "in use") {
		t.Errorf("a sixth container in a subnet for five: %v", err)
	}
	if err := w.Detach(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	w.attach(t, Request{ID: "next", Network: joined("small")})
	if err := w.Remove(t.Context(), "small"); !errors.Is(err, ErrInUse) {
		t.Errorf("remove a network in use: %v", err)
	}
}

func TestCreate(t *testing.T) {
	w := newWorld(t)
	first := w.create(t, Spec{Name: "first"})
	for _, s := range []Spec{
		{Name: "first"}, {Name: "bridge"},
		{Name: "x", IPv4: first.IPv4}, {Name: "x", IPv4: netip.MustParsePrefix("198.51.100.128/25")},
	} {
		if _, err := w.Create(t.Context(), s); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create %+v: %v", s, err)
		}
	}
	for _, s := range []Spec{
		{}, {Name: "../x"}, {Name: "-x"}, {Name: "host"}, {Name: "none"}, {Name: "container"}, {Name: strings.Repeat("x", maxNetworkName+1)},
		{Name: "x", MTU: minMTU - 1}, {Name: "x", MTU: maxMTU + 1},
		{Name: "x", IPv4: netip.MustParsePrefix("0.0.0.0/0")}, {Name: "x", IPv4: netip.MustParsePrefix("192.0.2.0/30")},
		{Name: "x", IPv4: netip.MustParsePrefix("127.0.0.0/16")}, {Name: "x", IPv4: netip.MustParsePrefix("fd00::/64")},
		{Name: "x", IPv4: netip.MustParsePrefix("192.0.2.0/24"), Gateway4: netip.MustParseAddr("192.0.3.1")},
		{Name: "x", IPv6: netip.MustParsePrefix("fd00::/97")}, {Name: "x", Gateway6: netip.MustParseAddr("fd00::1")},
		{Name: "x", Labels: map[string]string{"k": strings.Repeat("x", maxLabelBytes)}},
	} {
		if _, err := w.Create(t.Context(), s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("create %+v: %v", s, err)
		}
	}
	if first.MTU != 1400 {
		t.Errorf("MTU %d behind a route with 1400", first.MTU)
	}
	if got, err := w.Lookup(t.Context(), first.ID[:12]); err != nil || got.Name != "first" {
		t.Errorf("by id: %v, %v", got, err)
	}
	if _, err := w.Lookup(t.Context(), "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no network: %v", err)
	}
	if removed, err := w.Prune(t.Context()); err != nil || !slices.Equal(removed, []string{"first"}) {
		t.Errorf("pruned %v, %v", removed, err)
	}
	if all, err := w.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("networks %v, %v", all, err)
	}
	if _, err := w.Attach(t.Context(), Request{ID: "x", Network: joined("first")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("attach to no network: %v", err)
	}
}
