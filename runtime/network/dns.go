package network

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/errgroup"
)

// resolverAddr is where a container asks for names, as in Docker.
func resolverAddr() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

const (
	portDNS = 53

	maxQuestion  = 4096 // bytes of a question by UDP; longer ones have no use
	maxAnswer    = 512  // bytes of an answer by UDP to who does not say that it takes more
	maxQuestions = 128  // questions of one container that are answered at the same time

	askTimeout  = 4 * time.Second  // for one name server
	idleTimeout = 10 * time.Second // of a connection
	answerTTL   = 5                // seconds; containers come and go
)

// responder answers the questions of one container: by the names of its networks, and
// what it does not know by asking the host's name servers, from the host.
type responder struct {
	n       *Networks
	id      string
	servers []netip.AddrPort
	udp     *net.UDPConn
	tcp     *net.TCPListener
}

// responderFor returns what a member of the networks needs to find names, or nil: members
// of the default network alone ask the host's name servers themselves, if they can reach
// one.
func (n *Networks) responderFor(id string, nets []*Network, res resolver) *responder {
	r := &responder{n: n, id: id}
	outward, named, needed := false, false, len(res.servers) > 0
	for _, net := range nets {
		named = named || net.Name != DefaultNetwork
		outward = outward || !net.Internal
	}
	for _, s := range res.servers {
		needed = needed && s.IsLoopback()
		// Questions would carry data out of an internal network.
		if outward {
			r.servers = append(r.servers, netip.AddrPortFrom(s, portDNS))
		}
	}
	if !named && !needed {
		return nil
	}
	return r
}

// networks returns those of the container in which names are known. It may have been
// connected to others since it was started.
func (r *responder) networks() []string {
	rec, err := r.n.record(r.id)
	if err != nil {
		return nil
	}
	var out []string
	for _, m := range rec.Networks {
		if m.Network != DefaultNetwork {
			out = append(out, m.Network)
		}
	}
	return out
}

// listen opens the sockets in the namespace of the calling thread, on any port: the
// container may have a name server of its own.
func (r *responder) listen() error {
	at := netip.AddrPortFrom(resolverAddr(), 0)
	var err error
	if r.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err != nil {
		return fmt.Errorf("open socket for questions: %w", err)
	}
	if r.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at)); err != nil {
		return errors.Join(fmt.Errorf("open socket for questions: %w", err), r.udp.Close())
	}
	return nil
}

func (r *responder) close() error {
	if r.udp == nil || r.tcp == nil {
		return nil // never listened
	}
	err := errors.Join(r.udp.Close(), r.tcp.Close())
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serve runs until the context ends.
func (r *responder) serve(ctx context.Context, loops *errgroup.Group) {
	context.AfterFunc(ctx, func() { _ = r.close() })
	limit := make(chan struct{}, maxQuestions)
	loops.Go(func() error { return r.serveUDP(ctx, limit) })
	loops.Go(func() error { return r.serveTCP(ctx, limit) })
}

func (r *responder) serveUDP(ctx context.Context, limit chan struct{}) error {
	buf := make([]byte, maxQuestion)
	for {
		n, from, err := r.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return fmt.Errorf("read question: %w", err)
		}
		select {
		case limit <- struct{}{}:
		default:
			continue // who asks so much asks again
		}
		question := append([]byte(nil), buf[:n]...)
		go func() {
			defer func() { <-limit }()
			if answer := r.answer(ctx, question, false); answer != nil {
				_, _ = r.udp.WriteToUDPAddrPort(answer, from) // who asked may have gone
			}
		}()
	}
}

func (r *responder) serveTCP(ctx context.Context, limit chan struct{}) error {
	for {
		c, err := r.tcp.AcceptTCP()
		if err != nil {
			return fmt.Errorf("accept question: %w", err)
		}
		select {
		case limit <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		go func() {
			defer func() { <-limit }()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer c.Close() //nolint:errcheck // who asked has the answer or has gone
			for c.SetDeadline(time.Now().Add(idleTimeout)) == nil {
				question, err := readFramed(c)
				if err != nil {
					return
				}
				answer := r.answer(ctx, question, true)
				if answer == nil || writeFramed(c, answer) != nil {
					return
				}
			}
		}()
	}
}

// readFramed reads a message of a stream, which has its length in front (RFC 1035, 4.2.2).
func readFramed(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFramed(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...))
	return err
}

// answer returns the answer to a message, or nil if it deserves none.
func (r *responder) answer(ctx context.Context, question []byte, stream bool) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(question)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return failure(head, nil, dnsmessage.RCodeFormatError)
	}
	if head.OpCode == 0 && q.Class == dnsmessage.ClassINET {
		if resources, known := r.local(q); known {
			limit := 1<<16 - 1
			if !stream {
				limit = udpLimit(&p)
			}
			return success(head, q, resources, limit)
		}
	}
	answer := r.ask(ctx, question, stream)
	if answer == nil {
		code := dnsmessage.RCodeServerFailure
		if len(r.servers) == 0 {
			code = dnsmessage.RCodeNameError
		}
		return failure(head, &q, code)
	}
	return answer
}

// local looks a question up among the members of the networks.
func (r *responder) local(q dnsmessage.Question) ([]dnsmessage.Resource, bool) {
	name := strings.TrimSuffix(q.Name.String(), ".")
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: answerTTL}
	if q.Type == dnsmessage.TypePTR {
		addr, ok := reverse(name)
		if !ok {
			return nil, false
		}
		host, ok := r.n.nameOf(r.networks(), addr)
		if !ok {
			return nil, false
		}
		ptr, err := dnsmessage.NewName(host + ".")
		if err != nil {
			return nil, false
		}
		return []dnsmessage.Resource{{Header: head, Body: &dnsmessage.PTRResource{PTR: ptr}}}, true
	}
	addrs, known := r.n.addresses(r.networks(), name)
	if !known {
		return nil, false
	}
	// Who has a name together with others is to get a share of the connections.
	mathrand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	var out []dnsmessage.Resource
	for _, a := range addrs {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			out = append(out, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			out = append(out, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return out, true
}

// reverse reads the name of an address in in-addr.arpa or ip6.arpa.
func reverse(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		f := strings.Split(s, ".")
		if len(f) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(f[3] + "." + f[2] + "." + f[1] + "." + f[0])
		return a, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa")
	f := strings.Split(s, ".")
	if !ok || len(f) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, digit := range f {
		v, err := strconv.ParseUint(digit, 16, 4)
		if err != nil || len(digit) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(v) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

// udpLimit returns how long an answer may be that the one who asks takes (RFC 6891).
func udpLimit(p *dnsmessage.Parser) int {
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return maxAnswer
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return maxAnswer
		}
		if h.Type == dnsmessage.TypeOPT {
			return min(max(int(h.Class), maxAnswer), maxQuestion)
		}
		if p.SkipAdditional() != nil {
			return maxAnswer
		}
	}
}

func replyTo(head dnsmessage.Header, code dnsmessage.RCode) dnsmessage.Header {
	return dnsmessage.Header{
		ID: head.ID, Response: true, OpCode: head.OpCode, RCode: code,
		RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
	}
}

// success makes an answer of at most limit bytes, of which the rest is to be had by a
// stream.
func success(head dnsmessage.Header, q dnsmessage.Question, resources []dnsmessage.Resource, limit int) []byte {
	m := dnsmessage.Message{Header: replyTo(head, dnsmessage.RCodeSuccess), Questions: []dnsmessage.Question{q}, Answers: resources}
	m.Authoritative = true
	b, err := m.Pack()
	if err == nil && len(b) > limit {
		m.Truncated, m.Answers = true, nil
		b, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return b
}

func failure(head dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode) []byte {
	m := dnsmessage.Message{Header: replyTo(head, code)}
	if q != nil {
		m.Questions = []dnsmessage.Question{*q}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// ask passes a question on to the first name server that answers.
func (r *responder) ask(ctx context.Context, question []byte, stream bool) []byte {
	for _, s := range r.servers {
		if answer, err := exchange(ctx, s, question, stream); err == nil {
			return answer
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil
}

// exchange asks one server under a number of its own, so that the container cannot help
// anybody to guess it.
func exchange(ctx context.Context, server netip.AddrPort, question []byte, stream bool) ([]byte, error) {
	protocol := "udp"
	if stream {
		protocol = "tcp"
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, protocol, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // the answer is complete
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	ask := append([]byte(nil), question...)
	rand.Read(ask[:2]) // never fails
	if stream {
		err = writeFramed(c, ask)
	} else {
		_, err = c.Write(ask)
	}
	buf := make([]byte, maxQuestion)
	for err == nil {
		var answer []byte
		if stream {
			answer, err = readFramed(c)
		} else {
			var n int
			n, err = c.Read(buf)
			answer = buf[:n]
		}
		if err == nil && len(answer) >= 12 && answer[0] == ask[0] && answer[1] == ask[1] && answer[2]&0x80 != 0 {
			answer = append([]byte(nil), answer...)
			copy(answer, question[:2])
			return answer, nil
		}
		if stream && err == nil {
			err = io.ErrUnexpectedEOF
		}
	}
	return nil, err
}
