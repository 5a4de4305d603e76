package image

import (
	"strconv"
	"strings"
	"time"
)

// parsePorts reads "port[-port][/protocol]"; of a mapping as `docker run -p` takes it
// the port in the container counts, since that is what an image can know.
func parsePorts(s string) (first, last int, proto string, err error) {
	ports, proto, hasProto := strings.Cut(s, "/")
	if !hasProto {
		proto = "tcp"
	}
	switch proto = strings.ToLower(proto); proto {
	case "tcp", "udp", "sctp":
	default:
		return 0, 0, "", invalid("port %.50q: protocol is none of tcp, udp and sctp", s)
	}
	ports = ports[strings.LastIndexByte(ports, ':')+1:]
	from, to, isRange := strings.Cut(ports, "-")
	if !isRange {
		to = from
	}
	a, aerr := strconv.ParseUint(from, 10, 16)
	b, berr := strconv.ParseUint(to, 10, 16)
	if aerr != nil || berr != nil || a > b {
		return 0, 0, "", invalid("port %.50q is not a number below 65536, or a range of them", s)
	}
	return int(a), int(b), proto, nil
}

func (e *changeEditor) healthcheck(flags []string, rest string) error {
	kind, command := cutSpace(rest)
	var h Healthcheck
	for _, flag := range flags {
		if err := h.setFlag(flag); err != nil {
			return err
		}
	}
	switch strings.ToUpper(kind) {
	case "NONE":
		if command != "" || len(flags) > 0 {
			return invalid("HEALTHCHECK NONE takes no arguments")
		}
		h.Test = Args{"NONE"}
	case "CMD":
		list, exec, err := jsonList(command)
		switch {
		case err != nil:
			return err
		case exec && len(list) > 0:
			h.Test = append(Args{"CMD"}, list...)
		case !exec && command != "":
			h.Test = Args{"CMD-SHELL", command}
		default:
			return invalid("HEALTHCHECK CMD wants a command")
		}
	default:
		return invalid("HEALTHCHECK %.50q is neither CMD nor NONE", kind)
	}
	e.config.Healthcheck = &h
	return nil
}

func (h *Healthcheck) setFlag(flag string) error {
	name, value, ok := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
	if !ok {
		return invalid("flag %s wants a value", flag)
	}
	if name == "retries" {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 0 {
			return invalid("flag %s is not a number of at least 0", flag)
		}
		h.Retries = int(n)
		return nil
	}
	field := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}[name]
	if field == nil {
		return invalid("HEALTHCHECK has no flag --%.50s", name)
	}
	d, err := time.ParseDuration(value)
	if err != nil || (d != 0 && d < time.Millisecond) {
		return invalid("flag %s is not a duration of at least 1ms", flag)
	}
	*field = d
	return nil
}

func (e *changeEditor) stopSignal(rest string) error {
	value, err := expandWord(rest, e.config.Env)
	if err != nil {
		return err
	}
	if err := checkSignal(value); err != nil {
		return err
	}
	e.config.StopSignal = value
	return nil
}

// checkSignal accepts a number from 1 to 64 or the name of a Linux signal.
func checkSignal(s string) error {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return invalid("signal %d is not from 1 to 64", n)
		}
		return nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if real, ok := strings.CutPrefix(name, "RTMIN"); ok {
		return checkRealTime(s, real, '+')
	}
	if real, ok := strings.CutPrefix(name, "RTMAX"); ok {
		return checkRealTime(s, real, '-')
	}
	for _, known := range strings.Fields(signals) {
		if name == known {
			return nil
		}
	}
	return invalid("%.50q is no signal", s)
}

func checkRealTime(s, offset string, sign byte) error {
	if offset == "" {
		return nil
	}
	// RTMIN is 34 and RTMAX 64 to a C library.
	if n, err := strconv.ParseUint(offset[1:], 10, 8); offset[0] != sign || err != nil || n > 30 {
		return invalid("%.50q is no signal", s)
	}
	return nil
}

// signals of signal(7) on Linux, all architectures.
const signals = `ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV
	STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ`
