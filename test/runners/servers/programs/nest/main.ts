import 'reflect-metadata'
import { Body, Controller, Get, Module, Post, StreamableFile } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'

const large = Buffer.alloc(Number(process.env.LARGE), 'x')

@Controller()
class AppController {
  @Get()
  hello(): string {
    return `Hello World! ${process.pid}`
  }

  @Get('slow')
  async slow(): Promise<string> {
    await new Promise(resolve => setTimeout(resolve, 700))
    return 'slow'
  }

  @Post('echo')
  echo(@Body() body: unknown): unknown {
    return body
  }

  @Get('large')
  large(): StreamableFile {
    return new StreamableFile(large, { length: large.length })
  }
}

@Module({ controllers: [AppController] })
class AppModule {}

async function bootstrap(): Promise<void> {
  const app = await NestFactory.create(AppModule, { logger: ['error'] })
  await app.listen(process.env.PORT ?? 3000)
}
bootstrap()
