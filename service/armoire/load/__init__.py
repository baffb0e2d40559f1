"""Load tests of any server that speaks armoire.v1: session.run(Plan) -> Report."""
