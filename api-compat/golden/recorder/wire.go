package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// dumpProtobuf writes a protobuf message without its schema as text: field numbers, numbers, strings, nested messages.
// api-compat/golden/src/wire.rs does exactly the same.
func dumpProtobuf(body []byte) string {
	var out strings.Builder
	rest, framed := bytes.CutPrefix(body, []byte("k8s\x00"))
	if framed {
		out.WriteString("k8s\n")
	}
	fields, ok := parseFields(rest)
	if !ok {
		return fmt.Sprintf("not protobuf: %x\n", body)
	}
	writeFields(&out, fields, "")
	return out.String()
}

type field struct {
	number uint64
	wire   uint64
	value  uint64
	data   []byte
}

func parseFields(data []byte) ([]field, bool) {
	fields := []field{}
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return nil, false
		}
		data = data[n:]
		f := field{number: tag >> 3, wire: tag & 7}
		switch f.wire {
		case 0:
			if f.value, n = binary.Uvarint(data); n <= 0 {
				return nil, false
			}
			data = data[n:]
		case 1, 5:
			size := 8
			if f.wire == 5 {
				size = 4
			}
			if len(data) < size {
				return nil, false
			}
			f.data, data = data[:size], data[size:]
		case 2:
			size, n := binary.Uvarint(data)
			if n <= 0 || size > uint64(len(data)-n) {
				return nil, false
			}
			f.data, data = data[n:n+int(size)], data[n+int(size):]
		default:
			return nil, false
		}
		fields = append(fields, f)
	}
	return fields, true
}

func writeFields(out *strings.Builder, fields []field, indent string) {
	for _, f := range fields {
		switch {
		case f.wire == 0 && f.value > 1_700_000_000 && f.value < 5_000_000_000:
			fmt.Fprintf(out, "%s%d: <time>\n", indent, f.number)
		case f.wire == 0:
			fmt.Fprintf(out, "%s%d: %d\n", indent, f.number, f.value)
		case f.wire != 2:
			fmt.Fprintf(out, "%s%d: %x\n", indent, f.number, f.data)
		case bytes.HasPrefix(f.data, []byte("k8s\x00")):
			// An object inside a watch frame has an envelope of its own.
			inner := strings.TrimSuffix(dumpProtobuf(f.data), "\n")
			fmt.Fprintf(out, "%s%d {\n%s  %s\n%s}\n", indent, f.number, indent, strings.ReplaceAll(inner, "\n", "\n"+indent+"  "), indent)
		case printable(f.data):
			fmt.Fprintf(out, "%s%d: \"%s\"\n", indent, f.number, f.data)
		default:
			if nested, ok := parseFields(f.data); ok {
				fmt.Fprintf(out, "%s%d {\n", indent, f.number)
				writeFields(out, nested, indent+"  ")
				fmt.Fprintf(out, "%s}\n", indent)
			} else if utf8.Valid(f.data) {
				fmt.Fprintf(out, "%s%d: \"%s\"\n", indent, f.number, strings.ReplaceAll(string(f.data), "\n", "\\n"))
			} else {
				fmt.Fprintf(out, "%s%d: bytes %x\n", indent, f.number, f.data)
			}
		}
	}
}

func printable(data []byte) bool {
	if !utf8.Valid(data) {
		return false
	}
	for _, b := range data {
		if b < 0x20 || b == 0x7f {
			return false
		}
	}
	return true
}
