from lucid_events.cli import main

main()
