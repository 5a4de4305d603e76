package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// proxy brings a port of the host into a street, in which translation by the kernel ends.
type proxy struct {
	street *os.File
	ports  []proxied
}

type proxied struct {
	socket *os.File // bound to the host's port
	udp    bool
	to     netip.AddrPort
}

// newProxy brings in the ports that are held, first those of the first mapping: one
// socket for each, and with IPv6 two where no address of the host is named.
func newProxy(street *os.File, rec *Record, holders []*os.File) *proxy {
	p := &proxy{street: street}
	var four, six netip.Addr
	for _, m := range rec.Networks {
		if m.Gateway4.IsValid() {
			four, six = m.IPv4.Addr(), m.IPv6.Addr()
			break
		}
	}
	for _, m := range rec.Ports {
		add := func(to netip.Addr) {
			p.ports = append(p.ports, proxied{socket: holders[0], udp: m.Protocol == UDP, to: netip.AddrPortFrom(to, m.ContainerPort)})
			holders = holders[1:]
		}
		if !m.HostIP.Is6() {
			add(four)
		}
		if six.IsValid() && !m.HostIP.Is4() {
			add(six)
		}
	}
	return p
}

const (
	maxFlows = 256 // connections, or correspondents, of one port at the same time

	udpIdle = time.Minute // after which a correspondent is forgotten

	maxDatagram = 1 << 16 // bytes of a datagram, with room to spare
)

// serve runs until the context ends.
func (p *proxy) serve(ctx context.Context, loops *errgroup.Group) error {
	for _, port := range p.ports {
		if port.udp {
			c, err := net.FilePacketConn(port.socket)
			if err != nil {
				return fmt.Errorf("serve published port: %w", err)
			}
			udp, ok := c.(*net.UDPConn)
			if !ok {
				return errors.Join(fmt.Errorf("serve published port: %T", c), c.Close())
			}
			context.AfterFunc(ctx, func() { _ = udp.Close() })
			loops.Go(func() error { return p.serveUDP(ctx, udp, port.to) })
			continue
		}
		l, err := net.FileListener(port.socket)
		if err != nil {
			return fmt.Errorf("serve published port: %w", err)
		}
		context.AfterFunc(ctx, func() { _ = l.Close() })
		loops.Go(func() error { return p.serveTCP(ctx, l, port.to) })
	}
	return nil
}

func (p *proxy) serveTCP(ctx context.Context, l net.Listener, to netip.AddrPort) error {
	limit := make(chan struct{}, maxFlows)
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept connection to published port: %w", err)
		}
		in, ok := c.(*net.TCPConn)
		select {
		case limit <- struct{}{}:
		default:
			ok = false
		}
		if !ok {
			_ = c.Close()
			continue
		}
		go func() {
			defer func() { <-limit }()
			p.carry(ctx, in, to)
		}()
	}
}

// carry copies a connection both ways until both have ended.
func (p *proxy) carry(ctx context.Context, in *net.TCPConn, to netip.AddrPort) {
	defer in.Close() //nolint:errcheck // both sides have ended or the peer has gone
	c, err := p.dial(ctx, "tcp", to)
	if err != nil {
		_ = in.SetLinger(0) // refused here as it was there
		return
	}
	out, ok := c.(*net.TCPConn)
	defer c.Close() //nolint:errcheck // as above
	if !ok {
		return
	}
	stop := context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(out, in) // by splice(2): the bytes do not pass through this process
		_ = out.CloseWrite()
	})
	both.Go(func() {
		_, _ = io.Copy(in, out)
		_ = in.CloseWrite()
	})
	both.Wait()
}

// dial opens a connection from the street.
func (p *proxy) dial(ctx context.Context, protocol string, to netip.AddrPort) (c net.Conn, err error) {
	const patience = 10 * time.Second
	d := net.Dialer{Timeout: patience}
	err = inNamespace(p.street, func() error {
		c, err = d.DialContext(ctx, protocol, to.String())
		return err
	})
	return c, err
}

// serveUDP gives each correspondent a socket of its own in the street.
func (p *proxy) serveUDP(ctx context.Context, in *net.UDPConn, to netip.AddrPort) error {
	var mu sync.Mutex
	flows := make(map[netip.AddrPort]net.Conn) // guarded by mu
	buf := make([]byte, maxDatagram)
	for {
		k, from, err := in.ReadFromUDPAddrPort(buf)
		if err != nil {
			return fmt.Errorf("read from published port: %w", err)
		}
		mu.Lock()
		out, full := flows[from], len(flows) >= maxFlows
		mu.Unlock()
		if out == nil {
			if full {
				continue
			}
			if out, err = p.dial(ctx, "udp", to); err != nil {
				continue
			}
			mu.Lock()
			flows[from] = out
			mu.Unlock()
			stop := context.AfterFunc(ctx, func() { _ = out.Close() })
			go func() {
				defer stop()
				answers(in, out, from)
				mu.Lock()
				delete(flows, from)
				mu.Unlock()
				_ = out.Close()
			}()
		}
		if out.SetDeadline(time.Now().Add(udpIdle)) == nil {
			_, _ = out.Write(buf[:k]) // a datagram may be lost
		}
	}
}

func answers(in *net.UDPConn, out net.Conn, to netip.AddrPort) {
	buf := make([]byte, maxDatagram)
	for {
		k, err := out.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // nobody listens yet; the deadline ends this
		}
		if err != nil {
			return
		}
		if _, err := in.WriteToUDPAddrPort(buf[:k], to); err != nil {
			return
		}
	}
}
