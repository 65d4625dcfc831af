// Command probe is all that the containers of this package's tests hold.
package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	switch os.Args[1] {
	case "print":
		fmt.Println(os.Args[2])
	case "exit":
		code, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	case "random": // a step that ran twice shows it
		fmt.Println(rand.Text())
	case "sleep": // the argument is a mark to find the process by
		time.Sleep(time.Hour)
	case "write":
		size, err := strconv.Atoi(os.Args[3])
		if err == nil {
			data := make([]byte, size)
			rand.Read(data)
			err = os.WriteFile(os.Args[2], data, 0o644)
		}
		if err != nil {
			panic(err)
		}
	}
}
