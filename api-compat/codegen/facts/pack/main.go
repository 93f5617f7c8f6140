// Command pack compresses a file with zstd: pack <from> <to>.
package main

import (
	"log"
	"os"

	"github.com/klauspost/compress/zstd"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: pack <from> <to>")
	}
	raw, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(4<<20))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(os.Args[2], w.EncodeAll(raw, nil), 0o644); err != nil {
		log.Fatal(err)
	}
}
